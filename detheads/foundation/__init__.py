"""The torch-free ground that every room stands on, the deployment runtime included."""
