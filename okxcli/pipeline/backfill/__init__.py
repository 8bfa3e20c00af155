"""The holes of what is stored, filled by REST and from bulk files, and the bars mended that lacked them."""

from okxcli.pipeline.backfill.fetch_plan import Plan, pages
from okxcli.pipeline.backfill.past_channels import PastChannels
from okxcli.pipeline.backfill.run import Backfill
from okxcli.pipeline.backfill.tools import Tools
from okxcli.pipeline.backfill.whole_days import BulkFiles

__all__ = ["Backfill", "BulkFiles", "PastChannels", "Plan", "Tools", "pages"]
