"""Measures this server beside its peers: started by `benches/run`, which installs what it needs.

The rooms: `field` starts and stops servers, `processes` knows what they cost, `generators` make load, `stats` reduces what was
measured and tells what disturbed it, `experiments` has a file a question, `results` keeps the answers, `plots` and `report` show
them.
"""
