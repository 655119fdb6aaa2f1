"""Services of DICOM over a network: DIMSE and DICOMweb, with TLS. The door to pynetdicom.

`peers` says who is asked, `associations` opens a connection and turns what goes wrong into errors,
`statuses` holds what the numbers of an answer mean, and `placing` where a file of given UIDs lies.
"""
