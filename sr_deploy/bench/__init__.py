"""What a model or artifact is worth: quality on images, speed, memory and counts, as rows with their conditions."""
