"""Float training: matcher, criterion, tracklet-aware assignment, the clip loop, the trainer."""
