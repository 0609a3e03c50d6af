"""The numbers of a run, written down and watched."""
