"""The common ground of splitleak: models, images, measures and the wire. It knows no defense and no attack."""
