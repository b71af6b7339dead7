"""Signal processing without learned weights: files, resampling, mels, pitch, loudness, slicing.

Import the module that holds what you need (``from svc.audio.io import read_audio``). Work on files
alone (``io``, ``loudness``, ``overlap``, ``resample``, ``slicer`` on arrays) loads no torch.
"""
