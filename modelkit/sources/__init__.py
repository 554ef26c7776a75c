"""Where instances come from: families, traces, servers, calibration."""
