"""Annotated images on their way in: boxes as Pascal VOC, COCO and YOLO write them, and
masks.
"""
