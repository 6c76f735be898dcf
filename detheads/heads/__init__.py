"""Detection heads, one file each. ``registry`` finds and builds them; ``contract`` says what each one must do."""
