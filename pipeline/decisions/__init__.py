"""Which answers may go live unseen, at which level of the hierarchy, and which a person reviews."""
