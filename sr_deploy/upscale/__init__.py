"""Use what was deployed: pictures, folders and video through any session, exactly and within memory."""
