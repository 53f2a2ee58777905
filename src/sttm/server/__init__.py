"""An HTTP server with OpenAI's chat completions about videos, each of which is watched once."""
