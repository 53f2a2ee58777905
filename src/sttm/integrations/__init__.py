"""Where sttm plugs into other people's programs."""
