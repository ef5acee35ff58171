"""The control protocol between agents and trackers: messages, frames, and a channel over any byte stream. Sans-IO."""
