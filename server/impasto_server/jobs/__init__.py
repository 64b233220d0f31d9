"""What happens to jobs: admission, dispatch, their lives and their events."""
