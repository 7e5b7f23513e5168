"""Upscaling of pictures, folders and videos by any session, exactly and within memory."""
