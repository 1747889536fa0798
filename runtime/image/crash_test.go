package image

func crashChild() {}
