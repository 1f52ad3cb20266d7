"""The two static graphs of MOTR: base (`base.BaseGraph`) and query interaction module (`qim.QueryInteraction`)."""
