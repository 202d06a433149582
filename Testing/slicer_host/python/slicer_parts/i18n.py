"""slicer.i18n without translations."""


def translate(context: str, text: str) -> str:
    return text


def tr(text: str) -> str:
    return text
