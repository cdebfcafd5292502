"""Images: recipes, the build, and the versions on disk."""
