"""Many runs, started."""
