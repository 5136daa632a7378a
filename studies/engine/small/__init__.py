"""Many small trainings, each evaluated on a grid of steps: on languages or subsets of stories, with seeds and settings varied."""
