"""Whose the weights in an imported MGIE are, and under what licences: shown before they are converted, and kept with them."""

LICENCES = """\
These weights are others' work, under these licences, all of which bind whoever uses the bundle:
- LLaMA 7B: Meta's LLaMA licence (the first one: for research, not for commercial use).
- Vicuna and LLaVA 7B: differences to LLaMA. LLaVA's authors license theirs for research only, and for uses that the licences of
  LLaMA, Vicuna and GPT-4 (which wrote its data) allow. CLIP ViT-L/14: MIT.
- MGIE (mllm.pt, unet.pt): Copyright Apple Inc., CC BY-NC: with attribution, not for commercial use.
- Stable Diffusion 1.5 and InstructPix2Pix: CreativeML OpenRAIL-M, with its use restrictions, and MIT.
"""

CARD = f"""\
---
license: other
license_name: llama-and-cc-by-nc
tags: [mgie, instruct]
---
# MGIE, imported

MGIE's released weights (Fu et al. 2024) with the LLaVA, CLIP and InstructPix2Pix that they belong to, converted by
`paintover models import mgie`: not for commercial use.

## Licences

{LICENCES}
## What was changed

Half precision throughout. LLaVA is in transformers' layout: its projector is `linear_1`, with the identity behind it. The
rows of the embeddings are ordered as the tokenizer here has its tokens. The UNet's weights are MGIE's; the rest of
InstructPix2Pix is as it was, without its safety checker.
"""
