"""RecBole from the outside: settings, models by name, data, and what RecBole 1.2.1 needs on a machine of today."""
