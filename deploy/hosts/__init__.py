"""Programs that run our graphs or ask us to: what each reads, written from a bundle; one file a host."""
