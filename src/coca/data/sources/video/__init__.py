"""Videos as samples: clips, folders of videos, and strips of frames."""
