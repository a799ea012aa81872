"""Observations from JSOC, the archive of SDO/HMI at Stanford: what is missing is ordered, waited for and fetched."""
