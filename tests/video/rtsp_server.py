"""An RTSP server of GStreamer, for tests: run by a Python that has its bindings.

Prints its port, a free one unless it is told another. Serves at ``/live`` a white picture of 64x64
pixels at four frames per second, and at ``/resized`` one that is 96x96 from the third second on; at
``/short`` four seconds of it, and at ``/datagrams`` too, over UDP alone.
"""

import sys
from typing import Any

import gi

for name in ("Gst", "GstRtsp", "GstRtspServer"):
    gi.require_version(name, "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

SIZES = "video/x-raw,width={0},height={0},framerate=4/1"
PICTURE = (
    "( videotestsrc is-live=true pattern=white num-buffers={} ! videoscale ! "
    "capsfilter name=size caps=" + SIZES.format(64) + " ! "
    "x264enc tune=zerolatency key-int-max=4 ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


def resize(factory: Any, media: Any) -> None:
    """Change the picture's size once the media has run for a while."""
    size = media.get_element().get_by_name_recurse_up("size")
    caps = Gst.Caps.from_string(SIZES.format(96))
    GLib.timeout_add(3000, lambda: size.set_property("caps", caps))


def main() -> None:
    """Serve until it is killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=(*sys.argv[1:], "0")[0])
    launches = {"/live": PICTURE.format(-1), "/resized": PICTURE.format(-1)}
    launches |= dict.fromkeys(("/short", "/datagrams"), PICTURE.format(16))
    for path, launch in launches.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(launch)
        if path == "/resized":
            factory.connect("media-configure", resize)
        if path == "/datagrams":
            factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main()
