//! Dated prices, usage to dollars, estimates and budgets.
