"""Whose the weights in an imported InstructAny2Pix are, and under what licences: shown before they are converted, and kept."""

LICENCES = """\
These weights are others' work, under these licences, all of which bind whoever uses the bundle:
- ImageBind (imagebind_huge.pth): Copyright Meta Platforms, CC BY-NC-SA 4.0: NOT FOR COMMERCIAL USE, with attribution, and what
  is made of it under the same licence. Its authors say that it is for research, and not for any application in the real world.
- InstructAny2Pix (language model, projectors, refinement prior, adapter; Li, Singh and Grover 2023): no licence was found in
  its repository. Without one nobody has leave to use them but by its authors' word: ask them.
- Vicuna-7B v1.5, from which its language model was trained: the Llama 2 Community License of Meta.
- CLIP ViT-H/14 of LAION, of whose text encoder one answer is kept in the prior: MIT.
- Stable Diffusion XL (--base): CreativeML Open RAIL++-M, with its use restrictions.
What was verified: what the pages of ImageBind, Vicuna, CLIP and Stable Diffusion XL say of themselves. What was not: the terms
of InstructAny2Pix's own weights, and whether the folders that you name hold these models and not others under other terms.
"""

CARD = f"""\
---
license: other
license_name: cc-by-nc-sa-4.0-and-llama2-and-openrail++
tags: [any2pix]
---
# InstructAny2Pix, imported

InstructAny2Pix's released weights (Li et al. 2023) with the ImageBind and the Stable Diffusion XL that they belong to,
converted by `paintover models import any2pix`: not for commercial use.

## Licences

{LICENCES}
## What was changed

Half precision throughout. The language model is a plain LLaMA, its projectors a file of their own; CLIP's vision tower and the
projectors for sound that came with it are left out: InstructAny2Pix does not use them. Of ImageBind the image and the audio
branch are here. In the prior, the text encoder is replaced by what it says of the empty string, which is all that is asked of
it. The adapter is as it was, for one embedding of the whole and one of an object. Stable Diffusion XL is as it was.
"""
