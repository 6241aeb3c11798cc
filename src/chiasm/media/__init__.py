"""The gateway: how a picture, a sound, a text, a table or features are opened safely, checked, augmented and turned into tensors.

One modality is one file. `base.py` is their contract; `files.py` opens paths and bytes and `containers.py` reads headers for all of them.
Pillow, PyAV and soundfile are imported in this folder and nowhere else.
"""
