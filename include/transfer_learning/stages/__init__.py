"""One pure function a stage: folders in, folder out."""
