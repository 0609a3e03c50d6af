"""Programs beside the library. Without this file a `tools` package that detectron2 installs would hide them."""
