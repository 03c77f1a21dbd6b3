"""The verb `gate`, and the options that it shares with `report`."""
