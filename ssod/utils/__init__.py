"""What knows nothing of detection."""
