"""The dashboard below /ui: what `ui/build.py` has made of the sources in ui/, served as files."""
