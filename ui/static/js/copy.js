// Adds a button that copies to each value that is meant to be pasted elsewhere.
import { announce } from './page.js'

export function copyButtons (root) {
  if (!navigator.clipboard) return
  for (const code of root.querySelectorAll('code[data-copy]:not([data-ready])')) {
    code.dataset.ready = ''
    const button = document.createElement('button')
    button.type = 'button'
    button.className = 'quiet copy'
    button.textContent = 'Copy'
    button.addEventListener('click', async () => {
      await navigator.clipboard.writeText(code.textContent)
      button.textContent = 'Copied'
      announce('Copied')
      setTimeout(() => { button.textContent = 'Copy' }, 2000)
    })
    code.after(button)
  }
}
