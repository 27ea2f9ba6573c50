"""Records, transitions and the state machine: what a run is and who may change it.

Nothing here does I/O. The stores write these records, the engine asks for these transitions, and
:mod:`perdure.model.lifecycle` alone knows which status may follow which.
"""
