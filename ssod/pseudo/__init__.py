"""What a teacher says, made into labels."""
