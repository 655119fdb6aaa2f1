// A Worker in a hidden frame, for pages that were opened from disk: browsers refuse file: workers
// there, and without one the search stays empty. Served pages use the browser's own Worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = this.onerror = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      this.inside = this.frame.contentWindow
      // As from a Worker, a message arrives later and is a copy.
      this.inside.toPage = data => {
        const event = new MessageEvent("message", { data: structuredClone(data) })
        setTimeout(() => {
          if (this.onmessage) this.onmessage(event)
          this.dispatchEvent(event)
        })
      }
      const page = this.inside.document
      page.open()
      page.write(
        "<script>" +
          "function postMessage(data) { toPage(data) }" +
          "function importScripts(...urls) {" +
          "  return urls.reduce((done, url) => done.then(() => new Promise(loaded => {" +
          "    const script = document.createElement('script');" +
          "    script.src = url; script.onload = loaded; document.body.appendChild(script)" +
          "  })), Promise.resolve())" +
          "}" +
          "</" + "script><body><script src='" + url + "'></" + "script>"
      )
      page.close()
      this.loaded = new Promise(resolve => this.frame.addEventListener("load", resolve, { once: true }))
    }
    postMessage(data) {
      const event = new MessageEvent("message", { data: structuredClone(data) })
      this.loaded.then(() => setTimeout(() => this.inside.dispatchEvent(event)))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
