"""Archives that bring a bundle and all that runs it to a device without a network; one file a target."""
