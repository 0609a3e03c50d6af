"""Many runs, compared: who may be ranked with whom, how large a gain is, how sure, at which cost."""
