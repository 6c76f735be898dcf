"""What a machine has, what that allows, and the commands that add what is missing."""
