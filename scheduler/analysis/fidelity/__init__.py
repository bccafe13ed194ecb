"""How close a simulation is: against executed loops and against measured servers.

- `executed.py` Predicted against executed: the same requests through the cost model and through real execution.
- `measured.py` Simulated against measured: the same arrivals and lengths through both, and how far apart they end.
- `recorded.py` A recorded engine run beside its simulation: engine, pool and requests come from the run's own files.
- `teacher.py` Teacher forcing: the measured sequence of steps through the model, to see step times without feedback.
"""
