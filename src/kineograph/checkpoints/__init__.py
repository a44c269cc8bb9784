"""Files of every published layout to models and back: diffusers folders, the authors' single files, LoRAs."""
