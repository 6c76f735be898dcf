"""Libraries that run a bundle: one file each (see :class:`detheads.deploy.session.Backend`)."""
