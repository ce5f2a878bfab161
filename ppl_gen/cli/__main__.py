"""python -m ppl_gen.cli"""

import sys

from ppl_gen.cli import main

sys.exit(main())
