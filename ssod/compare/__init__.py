"""Several runs side by side: who may be ranked with whom, how large a gain is and how sure, at which cost."""
