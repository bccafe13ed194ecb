"""How close a simulation is: against executed loops and against measured servers.

- `executed.py` Predicted against executed: the same requests through the cost model and through real execution.
- `measured.py` Simulated against measured: the same arrivals and lengths through both, and how far apart they end.
"""
