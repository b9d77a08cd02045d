"""What `oaa doctor` looks at and tries."""
