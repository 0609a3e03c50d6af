"""detectron2's RetinaNet, FCOS and Faster R-CNN behind our protocol; it is imported when one is built."""
