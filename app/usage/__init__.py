"""What a project has of its quotas, and its uploads on their way in."""
