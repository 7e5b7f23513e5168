"""INT8 graphs: calibration, placement of Q/DQ pairs by a target's rules, and the gate in dB."""
